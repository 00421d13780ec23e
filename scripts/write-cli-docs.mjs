#!/usr/bin/env node
// Writes docs/cli.md from the command line itself; `npm run setup` first, since it reads what is built.
import { writeFileSync } from 'node:fs';
import { commandsPage } from '../dist/cli/commands-page.js';
import { makeProgram } from '../dist/cli/main.js';

writeFileSync(new URL('../docs/cli.md', import.meta.url), commandsPage(makeProgram()));
