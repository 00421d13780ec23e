/** One thing that is wrong; `path` is dotted (`train.lora_rank`), line and column count from 1 in the YAML. */
export interface ConfigIssue {
  path: string;
  message: string;
  line?: number;
  column?: number;
}

/** A config that can't be used; its message has every problem on a line of its own, `source` is a file or `inline`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly source: string;
  readonly issues: readonly ConfigIssue[];

  constructor(source: string, issues: readonly ConfigIssue[], options?: ErrorOptions) {
    const [first, ...others] = issues.map((issue) => issueText(source, issue));
    super(
      others.length === 0
        ? (first ?? source)
        : [`The config has ${issues.length} problems:`, first, ...others].join('\n- '),
      options,
    );
    this.source = source;
    this.issues = issues;
  }

  /** What crosses to whoever shows the error. */
  get details(): { source: string; issues: readonly ConfigIssue[] } {
    return { source: this.source, issues: this.issues };
  }
}

/** The issue with its place before it. */
export function issueText(source: string, issue: ConfigIssue): string {
  return `${place(source, issue)}: ${issue.message}`;
}

function place(source: string, { line, column }: ConfigIssue): string {
  const named = source === 'inline' ? 'inline config' : source;
  return line === undefined ? named : `${named}:${line}:${column ?? 1}`;
}
