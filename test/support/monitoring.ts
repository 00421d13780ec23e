import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { checkout } from '../../host/checkout.ts';

export interface Panel {
  title: string;
  /** The uid; undefined for a row. */
  datasource: string | undefined;
  place: { x: number; y: number; w: number; h: number };
  expressions: string[];
}

interface PanelJson {
  title: string;
  datasource?: { uid: string };
  gridPos: Panel['place'];
  targets?: { expr: string }[];
}

export async function dashboardPanels(): Promise<Panel[]> {
  const text = await readFile(join(checkout, 'deploy/grafana/dashboards/temper.json'), 'utf8');
  return (JSON.parse(text) as { panels: PanelJson[] }).panels.map(({ title, datasource, gridPos, targets = [] }) => ({
    ...{ title, datasource: datasource?.uid, place: gridPos },
    expressions: targets.map(({ expr }) => expr),
  }));
}

export async function alertRules(): Promise<{ alert: string; expr: string }[]> {
  const text = await readFile(join(checkout, 'deploy/prometheus/alerts.yml'), 'utf8');
  const { groups } = parse(text) as { groups: { rules: { alert: string; expr: string }[] }[] };
  return groups.flatMap(({ rules }) => rules);
}

/** The metrics that a PromQL expression asks for: names before a selector, an operator or a bracket, functions left out. */
export function metricsIn(expression: string): string[] {
  const bare = expression.replace(/\{[^}]*\}/g, ' ').replace(/\b(by|on|without)\s*\([^)]*\)/g, ' ');
  const names = [...bare.matchAll(/\b([a-zA-Z_]\w*)\b(?!\s*\()/g)].map(([, name]) => name!);
  return names.filter((name) => name.includes('_') && !name.startsWith('__'));
}
