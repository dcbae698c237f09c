"""The encoders and what runs them: token operations, executors, the worker thread, and the seam to Triton.

`vit`, `bert`, `text`, `importance`, `models`, `tokens`, `torch_encoder` and `cuda_graphs` need torch; nothing
else does, so that a stub on the CPU starts without it.
"""
