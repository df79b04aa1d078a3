/** `overlay soft …`. */
import {
  leaveSoft,
  type ShownSoft,
  type SoftOptions,
  showSoft,
  useSoft,
} from '../../host/provisioning/overlay-soft.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export async function show(options: CommonOptions): Promise<void> {
  const shown = await showSoft(new State(options))
  if (options.json) printJson(shown)
  else printLines(linesOf(shown))
}

export async function use(url: string, options: CommonOptions & SoftOptions): Promise<void> {
  const shown = await useSoft(new State(options), url, options)
  if (options.json) printJson(shown)
  else printLines([`this coordinator is ${shown.name} from its next start on`, ...linesOf(shown)])
}

export function leave(options: CommonOptions): void {
  leaveSoft(new State(options))
  if (options.json) printJson({ kind: 'memory' })
  else printLines(['this coordinator is the only one of its zone from its next start on'])
}

function linesOf({ name, report }: ShownSoft): string[] {
  if (report === null) return ['in memory: this is the only coordinator of its zone']
  const { replicas, claims, coordinators } = report
  return [
    `NATS ${report.version} at ${report.server}, ${report.tls ? 'TLS' : 'without TLS'}; this coordinator is ${name}`,
    replicas === null
      ? `no bucket ${report.bucket}: no coordinator has run yet, or NATS has no JetStream or no majority`
      : `bucket ${report.bucket}: ${claims} nodes, ${replicas === 1 ? 'one replica' : `${replicas} replicas`}`,
    ...(coordinators.length === 0 ? ['no coordinator runs'] : []),
    ...coordinators.map((each) => `coordinator ${each.name}: ${each.nodes} nodes`),
  ]
}
