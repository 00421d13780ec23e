"""The demo's base model and its pictures: a tiny Qwen3-VL of true architecture, and the badges that it reads."""
