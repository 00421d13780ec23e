import type { Train } from './check-options.ts';
import type { OptionName } from './train-rules.ts';

export interface Advice {
  option: OptionName;
  /** Follows the option's name. */
  message: string;
}

/** Options that are legal, and probably not what is wanted, whoever starts the training; `source` is where its base comes from. */
export function adviceOnOptions(train: Train, source = ''): Advice[] {
  const advice: Advice[] = [];
  const say = (option: OptionName, message: string) => advice.push({ option, message });
  if (train.save_only_model === true)
    say('save_only_model', ': a resumed training starts its optimizer anew and is not the same training');
  if (train.ignore_data_skip === true)
    say('ignore_data_skip', ': a resumed training sees rows again and is not the same training');
  if (train.dataloader_persistent_workers === true)
    say('dataloader_persistent_workers', ': with dropout a resumed training is not exactly the same');
  if (train.enable_liger_kernel === true) say('enable_liger_kernel', ' does nothing for Qwen3-VL');
  if (train.neat_packing === true && (train.cutoff_len ?? 2048) % 8 !== 0)
    say('neat_packing', ' has been seen to crash with a cutoff_len that 8 does not divide');
  const base = `${train.model_name_or_path ?? ''} ${source}`.toLowerCase();
  if (train.template === 'qwen3_vl' && base.includes('instruct')) {
    say('template', ' qwen3_vl trains empty <think> blocks into an Instruct model; qwen3_vl_nothink is made for it');
  }
  if (train.template === 'qwen3_vl_nothink' && base.includes('thinking'))
    say('template', ' qwen3_vl_nothink is made for Instruct models; qwen3_vl for a Thinking one');
  return advice;
}
