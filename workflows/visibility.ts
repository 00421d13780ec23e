import { upsertSearchAttributes } from '@temporalio/workflow';

/**
 * What a run can be found by, as in `temporal workflow list --query "TemperOutcome = 'deployed' AND TemperScore > 0.9"`. A
 * namespace that lacks the search attributes would stop the run at the first one, so the worker looks and `isIndexed` says.
 */
export class Visibility {
  readonly #isIndexed: boolean;

  constructor(isIndexed: boolean) {
    this.#isIndexed = isIndexed;
  }

  begins(stage: string): void {
    this.#set('TemperStage', 'KEYWORD', stage);
  }

  trains(model: string): void {
    this.#set('TemperModel', 'KEYWORD', model);
  }

  scores(score: number): void {
    this.#set('TemperScore', 'DOUBLE', score);
  }

  ends(outcome: string): void {
    this.#set('TemperOutcome', 'KEYWORD', outcome);
  }

  #set(name: string, type: 'KEYWORD' | 'DOUBLE', value: string | number): void {
    if (this.#isIndexed) upsertSearchAttributes([{ key: { name, type }, value } as never]);
  }
}
