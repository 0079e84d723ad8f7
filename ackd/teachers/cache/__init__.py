"""Teachers' answers on disk, and what of them a budget keeps."""
