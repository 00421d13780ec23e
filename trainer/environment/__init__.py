"""Judges what training will stand on: packages, their imports, LLaMA-Factory's parser, and the base model's folder."""
