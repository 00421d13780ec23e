/** What was looked at: what was found, what is needed, the verdict, and the fix as a command. */
export interface CheckItem {
  name: string;
  found: string;
  needed: string;
  verdict: 'ok' | 'warning' | 'error';
  fix?: string;
}
