"""Statistics, tables, pictures and HTML pages of evaluations and reports."""
