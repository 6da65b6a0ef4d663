"""What an evaluation leaves behind for people: a table in the terminal and one page that needs nothing else."""
