import { ApplicationFailure, condition, setHandler } from '@temporalio/workflow';
import type { Approval } from '../activities/deploy-model.ts';
import { approveUpdate, rejectUpdate } from './messages.ts';

export type Decision = ({ approved: true } & Approval) | ({ approved: false } & Approval);

/** Waits for a person's word about the candidate: the updates `approve` and `reject`, each with who and why. */
export class ApprovalDesk {
  #isOpen = false;
  #decision: Decision | undefined;

  constructor() {
    const validator = (request: Partial<Approval>) => this.#require(request);
    setHandler(approveUpdate, ({ by, why }) => this.#decide({ approved: true, by, why }), { validator });
    setHandler(rejectUpdate, ({ by, why }) => this.#decide({ approved: false, by, why }), { validator });
  }

  /** The decision; undefined when nobody has taken one within so many hours. */
  async wait(hours: number): Promise<Decision | undefined> {
    this.#isOpen = true;
    await condition(() => this.#decision !== undefined, hours * 3_600_000);
    this.#isOpen = false;
    return this.#decision;
  }

  #decide(decision: Decision): string {
    this.#decision = decision;
    return `${decision.approved ? 'approved' : 'rejected'} by ${decision.by}`;
  }

  #require(request: Partial<Approval> | undefined): void {
    const isText = (value: unknown) => typeof value === 'string' && value.trim() !== '';
    if (!isText(request?.by) || !isText(request?.why))
      throw refusal('it takes {"by": "<who>", "why": "<the reason>"}, both with a text in it');
    if (this.#decision !== undefined) throw refusal(`${this.#decision.by} has decided already`);
    if (!this.#isOpen) throw refusal('no candidate of this run waits for approval');
  }
}

function refusal(message: string): ApplicationFailure {
  return ApplicationFailure.nonRetryable(`Refused: ${message}.`, 'ConfigError');
}
