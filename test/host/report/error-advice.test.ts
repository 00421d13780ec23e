import { expect, test } from '@jest/globals';
import { errorNames } from '../../../host/errors.ts';
import { adviceFor } from '../../../host/report/error-advice.ts';

test.each(errorNames)(
  'the docs say of %s what it means, whether it is tried again, who acts and what to do',
  async (name) => {
    const advice = await adviceFor(name);
    expect(advice?.retried).toMatch(/^(yes|no)/);
    for (const cell of [advice?.means, advice?.whoActs, advice?.toDo]) expect(cell).toMatch(/^\w.+/);
  },
);
