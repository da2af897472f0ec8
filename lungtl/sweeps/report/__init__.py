"""The comparison of a sweep's runs, and the page that shows it."""
