import { expect, test } from '@jest/globals';
import { options, type Option } from '../../configs/llamafactory-options.ts';
import { optionSchema } from '../../configs/train-options.ts';
import { owned, pathOptions, restricted, type OptionName } from '../../configs/train-rules.ts';

const all = Object.entries(options) as [OptionName, Option][];

test("LLaMA-Factory's own default of every option is accepted", () => {
  const needsAValue = ['model_name_or_path', 'dataset', 'template', 'do_train'];
  const refused = all
    .filter(([name]) => !needsAValue.includes(name))
    .filter(([name, option]) => !optionSchema(name).safeParse(option.default).success);
  expect(refused.map(([name]) => name)).toEqual([]);
});

test('no option that names a file or a folder escapes the check of paths', () => {
  const notPaths = ['adapter_folder', 'liger_kernel_config', 'parallelism_config'];
  const looksLikePath = all.filter(([name, { type, help }]) => {
    const isText = type.some((each) => each === 'string' || each === 'names' || each === 'dict');
    return isText && (/(path|dir|folder|file|_config)$/.test(name) || /\b(path|folder|directory)\b/i.test(help));
  });
  const unchecked = looksLikePath.map(([name]) => name).filter((name) => !(name in pathOptions) && !(name in owned));
  expect(unchecked.filter((name) => !notPaths.includes(name))).toEqual([]);
});

test('what Temper restricts are values that LLaMA-Factory has', () => {
  for (const [name, { values }] of Object.entries(restricted)) {
    const { choices }: Option = options[name as OptionName];
    if (choices !== undefined) expect(choices).toEqual(expect.arrayContaining([...values]));
  }
});
