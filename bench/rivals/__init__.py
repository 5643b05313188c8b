"""attngen beside every peer that can be imported: rows, systems, truth, clocks, report."""
