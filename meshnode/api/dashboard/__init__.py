"""The dashboard: a page for the browser, and the few endpoints that it lives on."""
