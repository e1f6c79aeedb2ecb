"""Action distributions for catalogues and semantic IDs."""
