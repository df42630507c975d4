"""What was measured, as the tables and figures of the pages."""
