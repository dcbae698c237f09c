"""The encoders and what runs them: token operations, executors, the worker thread, and the seam to Triton.

`vit`, `text`, `models`, `tokens` and `torch_executor` need torch; everything that a CPU stub imports does not.
"""
