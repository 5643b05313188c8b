"""The typed program the passes work on."""
