"""How the documentation becomes a site: hooks for MkDocs, which ``mkdocs.yml`` names."""
