"""Judges a LLaMA-Factory dataset row by row before a GPU sees it, and writes the clean splits that training reads.

A row's way: info (dataset_info.json) → sources (files to rows) → structure (rows to conversations) → media (pictures
and videos) → tokens → split → report. LLaMA-Factory's own code is the yardstick for each.
"""
