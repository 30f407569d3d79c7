"""What users of JupyterLab see: magics, live widgets, progress, figures, interactive charts and reports."""
