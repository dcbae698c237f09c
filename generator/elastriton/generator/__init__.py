"""Offline: tune, profile, plan, generate, check and serve. `import elastriton.generator.cli` loads no heavy library."""
