/** The Prometheus text format, version 0.0.4: /metrics of the control socket. */
import type { Metric } from '../../core/mechanism.ts'

export function formatMetrics(metrics: Iterable<Metric>): string {
  const families = new Map<string, { help: string; type: string; lines: string[] }>()
  for (const metric of metrics) {
    const histogram = /^(.*)_(?:bucket|sum|count)$/.exec(metric.name)
    const name = histogram?.[1] ?? metric.name
    let family = families.get(name)
    if (!family) {
      family = { help: metric.help, type: histogram ? 'histogram' : metric.type, lines: [] }
      families.set(name, family)
    }
    const labels = Object.entries(metric.labels ?? {}).map(([key, value]) => `${key}="${escapeLabel(value)}"`)
    family.lines.push(`${metric.name}${labels.length > 0 ? `{${labels.join(',')}}` : ''} ${metric.value}`)
  }
  const text = [...families].flatMap(([name, { help, type, lines }]) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...lines,
  ])
  return `${text.join('\n')}\n`
}

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')
}
