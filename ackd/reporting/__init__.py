"""What evaluations and reports are made of: statistics, tables, pictures, the page."""
