import { expect, test } from '@jest/globals';
import { compareFields } from '../../../host/judging/json-fields.ts';

/** The names of the fields that the answer has right, and of those it has not. */
function fields(answer: string, expected: string): [string[], string[]] | null {
  const found = compareFields(answer, expected);
  const named = (right: boolean) => (found ?? []).filter((match) => match.right === right).map(({ field }) => field);
  return found === null ? null : [named(true), named(false)];
}

test.each<[string, string, string, string[], string[]]>([
  ['the same', '{"a": 1}', '{"a": 1}', ['a'], []],
  ['another order', '{"b": 2, "a": 1}', '{"a": 1, "b": 2}', ['a', 'b'], []],
  ['nested', '{"a": {"b": {"c": "x"}}}', '{"a": {"b": {"c": "x", "d": "y"}}}', ['a.b.c'], ['a.b.d']],
  ['a list', '{"a": [{"n": 1}, {"n": 3}]}', '{"a": [{"n": 1}, {"n": 2}]}', ['a[].n'], ['a[].n']],
  ['a list that is too short', '{"a": [1]}', '{"a": [1, 2]}', ['a[]'], ['a[]']],
  ['an object for a list', '{"a": {"0": 1}}', '{"a": [1]}', [], ['a[]']],
  ['numbers written otherwise', '{"a": 1.50, "b": 1e2}', '{"a": 1.5, "b": 100}', ['a', 'b'], []],
  ['a number for a string', '{"a": 7, "b": "7"}', '{"a": "007", "b": 7}', [], ['a', 'b']],
  ['space and composed characters', '{"a": " e\u0301 "}', '{"a": "\u00e9"}', ['a'], []],
  ['another case', '{"a": "x"}', '{"a": "X"}', [], ['a']],
  ['nothing for null', '{}', '{"a": null}', [], ['a']],
  ['null and booleans', '{"a": null, "b": false}', '{"a": null, "b": true}', ['a'], ['b']],
  ['empty ones', '{"a": [], "b": {}}', '{"a": [], "b": []}', ['a'], ['b']],
  ['more than was asked for', '{"a": 1, "b": 2}', '{"a": 1}', ['a'], []],
  ['a fence', '```json\n{"a": 1}\n```', '{"a": 1}', ['a'], []],
  ['a fence without a language', ' ```\n{"a": 1}```\n', '```JSON\n{"a": 1}\n```', ['a'], []],
  ['words around it', 'Here it is: {"a": 1}', '{"a": 1}', [], ['a']],
  ['half of it', '{"a": 1, "b', '{"a": 1, "b": 2}', [], ['a', 'b']],
  ['a text in JSON', '"a"', '{"length": 1}', [], ['length']],
  [
    'names that objects inherit',
    '{}',
    '{"constructor": {"name": "Object"}, "__proto__": {}}',
    [],
    ['constructor.name', '__proto__'],
  ],
  ['names with a dot', '{"a": {"b": 1}}', '{"a.b": 1}', [], ['a.b']],
])('%s: %j for %j', (_, answer, expected, right, wrong) => {
  expect(fields(answer, expected)).toEqual([right, wrong]);
});

test.each(['yes', '', '[1]', '{}', 'null', '3', '{"a": 1'])('%j has no fields to expect', (expected) => {
  expect(compareFields('{"a": 1}', expected)).toBeNull();
});
