"""`python -m elastriton.generator`: the command line, where the script `elastriton` is not on PATH."""

from elastriton.generator.cli import main

main()
