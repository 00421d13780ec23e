export { fineTune } from './fine-tune.ts';
export { rollback } from './rollback.ts';
