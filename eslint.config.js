import js from '@eslint/js';
import importX from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';
import { builtinModules } from 'node:module';

const nodeBuiltins = builtinModules.filter((name) => name !== 'assert').flatMap((name) => [name, `node:${name}`]);

/** Imports go one way: cli, workers → activities → host, configs; workflows see only types of the rest. */
const layer = (folder, ...allowed) => ({
  target: `./${folder}`,
  from: ['cli', 'workers', 'activities', 'host', 'configs', 'workflows']
    .filter((other) => other !== folder && !allowed.includes(other))
    .map((other) => `./${other}`),
  message: `${folder}/ may import only ${[folder, ...allowed].join(', ')}`,
});

export default tseslint.config(
  {
    ignores: [
      'dist/',
      'node_modules/',
      '.temper/',
      '.setup/',
      'trainer/.venv*/',
      'serving/.venv-*/',
      'configs/llamafactory-options.ts',
      'test/fixtures/releases/',
    ],
  },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked.map((config) => ({ ...config, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    plugins: { 'import-x': importX },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', ignoreRestSiblings: true }],
      'import-x/no-restricted-paths': [
        'error',
        {
          zones: [
            layer('configs'),
            layer('host', 'configs'),
            layer('activities', 'host', 'configs'),
            layer('workers', 'activities', 'host', 'configs', 'workflows'),
          ],
        },
      ],
    },
  },
  {
    files: ['test/**/*.ts'],
    rules: { '@typescript-eslint/require-await': 'off' },
  },
  {
    files: ['host/**/*.ts', 'configs/**/*.ts'],
    rules: { 'no-restricted-imports': ['error', { patterns: ['@temporalio/*'] }] },
  },
  {
    files: ['workflows/**/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { paths: nodeBuiltins, patterns: ['zod', 'yaml', 'execa', '@temporalio/*', '!@temporalio/workflow'] },
      ],
      '@typescript-eslint/no-restricted-imports': [
        'error',
        {
          patterns: [{ group: ['../*'], allowTypeImports: true, message: 'workflows import only types from outside' }],
        },
      ],
    },
  },
  {
    files: ['**/*.mjs', '**/*.js'],
    languageOptions: {
      globals: { process: 'readonly', console: 'readonly', URL: 'readonly', performance: 'readonly' },
    },
  },
  {
    files: ['host/report/browser/*.js'],
    languageOptions: {
      globals: {
        ...{ document: 'readonly', matchMedia: 'readonly', getComputedStyle: 'readonly', addEventListener: 'readonly' },
        ...{ ResizeObserver: 'readonly', echarts: 'readonly' },
      },
    },
  },
);
