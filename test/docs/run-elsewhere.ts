/** A command of the docs that commands.test.ts leaves out. */
export interface RunElsewhere {
  /** As printed, without the remark at its end. */
  command: string;
  why: string;
  /** The test that runs it or what it asks for. */
  runBy: string;
  /** What stands in that file. */
  seenBy: string;
}

function each(commands: string[], why: string, runBy: string, seenBy: string): RunElsewhere[] {
  return commands.map((command) => ({ command, why, runBy, seenBy }));
}

export const runElsewhere: RunElsewhere[] = [
  ...each(['npm test'], 'it is what runs this', 'scripts/test.mjs', '`npm test`'),
  ...each(
    ['docker compose up --detach --wait'],
    'needs a Docker engine: npm run test:docker',
    'test/docker/compose.test.ts',
    "compose('up', '--detach', '--wait')",
  ),
  ...each(
    [
      'docker compose exec -T postgres pg_dump --username temporal --format custom temporal > temporal.dump',
      'docker compose exec -T postgres pg_dump --username temporal --format custom temporal_visibility > temporal_visibility.dump',
      'docker compose up --detach --wait postgres',
      'docker compose exec -T postgres pg_restore --username temporal --dbname postgres --create --clean --if-exists --exit-on-error < temporal.dump',
      'docker compose exec -T postgres pg_restore --username temporal --dbname postgres --create --clean --if-exists --exit-on-error < temporal_visibility.dump',
    ],
    'needs a Docker engine: npm run test:docker',
    'test/docker/backup.test.ts',
    'run as it stands by test',
  ),
  ...each(
    [
      'sudo systemctl stop temper-worker',
      'sudo -u temper git -C /opt/temper pull',
      'sudo -u temper npm --prefix /opt/temper run setup',
      'sudo systemctl start temper-worker',
    ],
    'needs systemd, root and a newer version',
    'test/deploy/systemd.test.ts',
    'temper-worker.service',
  ),
  ...each(
    [
      `temporal workflow update execute --workflow-id my-run --name approve --input '{"by":"Mei","why":"looked at 20 answers"}'`,
      `temporal workflow update execute --workflow-id my-run --name reject  --input '{"by":"Mei","why":"worse on blurred cards"}'`,
    ],
    'needs a run that waits for a person',
    'test/workflows/admission.test.ts',
    "executeUpdate('approve'",
  ),
  ...each(
    ['npx temper rollback my-model --why "users complain about dates"'],
    'needs a second champion',
    'test/workflows/admission.test.ts',
    "start<typeof rollback>('rollback'",
  ),
  ...each(
    ['npm run setup:trackers'],
    'brings 1 GB from a package index: npm run test:trackers',
    'scripts/test-trackers.mjs',
    'setUpTrackers({ tests: true })',
  ),
  ...each(
    [
      'trainer/.venv/bin/tensorboard --logdir .temper/runs/first/train/trackers/tensorboard',
      'uvx mlflow ui --backend-store-uri sqlite:///$PWD/.temper/runs/first/train/trackers/mlflow.db',
      'trainer/.venv/bin/wandb sync --append .temper/runs/first/train/trackers/wandb/offline-run-*',
      'trainer/.venv/bin/swanlab sync .temper/runs/first/train/trackers/swanlab/run-…',
      'TRACKIO_DIR=.temper/runs/first/train/trackers/trackio uvx trackio show',
    ],
    'needs a tracker, its account or a browser; what it reads is what is looked at there',
    'test/trainer/test_trackers.py',
    'offline-run-',
  ),
  ...each(['npx temper report my-first --open'], 'opens a browser', 'test/cli/report.test.ts', '--open'),
];
