"""The pages of ``docs/reference`` that the code writes, one module a page: ``python -m scripts.reference``."""
