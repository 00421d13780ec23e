import picocolors from 'picocolors';

/** Colors where a terminal shows them and NO_COLOR is not set; picocolors alone also takes the log of a CI for a terminal. */
export const colors = picocolors.createColors(picocolors.isColorSupported && Boolean(process.stdout.isTTY));
