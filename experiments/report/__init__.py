"""From records to a report: results with intervals, tables, pictures, and the paper's numbers."""
