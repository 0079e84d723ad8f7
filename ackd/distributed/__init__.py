"""Work with several processes and machines: data-parallel training of one student, and workers for jobs."""
