"""Reading what nobody vouches for, and writing whole files."""
