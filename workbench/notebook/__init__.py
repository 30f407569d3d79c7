"""What users of JupyterLab see: magics, live widgets, progress, figures, interactive charts and reports.

`magics` and the command line share their options; `widget` and `live` show a recorder at work; `plot` makes figures
for papers, `html` charts to look into (their scripts are in `assets`). A chart must read well as plain text, too.
"""
