"""Renders a Helm chart with values (JSON), or reads a file of resources, and prints what comes of it as a list
in JSON.

Ends with an error where Helm's linter has one to say, where the values are not the chart's, or where a
resource is none of Kubernetes.
"""
import json
import sys

import kubernetes_validate
import yaml
from helm_python.chart import Chart, lint



def rendered(folder, values):
    errors = lint(folder)["errors"]
    if errors:
        sys.exit(f"{folder}: {errors}")
    with Chart.load(folder) as chart:
        chart.validate_schema(values)
        files = chart.render(values=values, name="culvert", namespace="edge")
        return [text for name, text in files.items() if not name.endswith("NOTES.txt")]


path, values = sys.argv[1], json.loads(sys.argv[2])
texts = [open(path).read()] if path.endswith(".yaml") else rendered(path, values)
resources = [resource for text in texts for resource in yaml.safe_load_all(text) if resource]
for resource in resources:
    # Of the Prometheus Operator's kinds there is no schema at hand.
    if not resource["apiVersion"].startswith("monitoring.coreos.com/"):
        kubernetes_validate.validate(resource, "1.37", strict=True)
print(json.dumps(resources))
