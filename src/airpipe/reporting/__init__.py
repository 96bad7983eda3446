"""What people read: tables and figures of the results, and the report page."""
