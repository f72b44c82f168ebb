"""What is done to one instance: stages know no disk, no row and no socket; arrays and records in, records out."""
