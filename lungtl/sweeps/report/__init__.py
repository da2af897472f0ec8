"""The comparison of a sweep's runs: tables, figures and an HTML page."""
