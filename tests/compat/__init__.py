"""The adapters held against the published source of the engines, which is read and never run."""
