"""N students in one batched step."""
