/** `doctor`. */
import { existsSync } from 'node:fs'
import { GodwitError } from '../../core/errors.ts'
import type { WayStatus } from '../../core/mechanism.ts'
import { loadConfig } from '../../host/configuration/config.ts'
import { ControlClient } from '../../host/control/client.ts'
import { examine, type Finding } from '../../host/daemon/doctor.ts'
import { softFindings } from '../../host/provisioning/overlay-soft.ts'
import { storeFindings } from '../../host/provisioning/overlay-store.ts'
import { mayTry, tryWays } from '../../host/provisioning/ways.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { EXIT } from '../errors.ts'
import { fitTable, printJson, printLines, showMs, waitedFor, wrap } from '../output.ts'

export async function doctor(options: CommonOptions): Promise<void> {
  const findings = [
    ...examine(),
    ...storeFindings(new State(options)),
    ...(await softFindings(new State(options))),
    ...(await waitedFor('testing the way to each anchor', waysOf(new State(options)))),
  ]
  const lacking = findings.filter(({ ok, required }) => required && !ok)
  if (options.json) printJson({ ok: lacking.length === 0, findings })
  else printLines(report(findings))
  if (lacking.length > 0) process.exitCode = EXIT.missing
}

/** A table that fits the terminal; what a cut cell said of a lack is whole below. */
export function report(findings: readonly Finding[], width?: number): string[] {
  const rows = findings.map((finding) => {
    const mark = finding.ok ? 'ok' : finding.required ? 'LACKS' : 'without'
    return [mark, finding.name, finding.value, finding.parts.join(', ')]
  })
  const mends = findings
    .filter(({ ok }) => !ok)
    .flatMap(({ name, value, parts, mend }) =>
      wrap(`${name} (for ${parts.join(', ')}): ${value}; to mend it: ${mend}`, '  ', width),
    )
  const fit = { drop: ['NEEDED BY'], shorten: ['FOUND'], width }
  return [
    ...fitTable(['', 'WHAT', 'FOUND', 'NEEDED BY'], rows, fit),
    ...(mends.length > 0 ? ['', ...mends] : []),
  ]
}

/** The way to each anchor over each access; nothing where this is no host that has joined one, or for who may not try. */
async function waysOf(state: State): Promise<Finding[]> {
  try {
    if (state.busy())
      return (await new ControlClient(state.socket).get<{ ways: WayStatus[] }>('/v1/ping')).ways.map(finding)
    if (!mayTry() || !existsSync(state.configFile)) return []
    const config = loadConfig(state.configFile)
    return config.peer.length === 0 ? [] : (await tryWays(state, config)).map(finding)
  } catch (error) {
    if (error instanceof GodwitError && error.code === 'WRONG_ROLE') return [] // no host, so no anchors
    const mend = 'godwit config check; sudo godwit ping'
    return [
      {
        name: 'ways to anchors',
        ok: false,
        value: (error as Error).message,
        parts: ['host'],
        required: false,
        mend,
      },
    ]
  }
}

function finding({ peer, access, remote, ok, rtt_ms, mtu, reason }: WayStatus): Finding {
  const value = ok
    ? `${showMs(rtt_ms)}${mtu === null ? '' : `, packets of ${mtu} bytes pass`}`
    : (reason ?? 'fails')
  const mend = `allow UDP to ${remote}; is the anchor running?`
  return { name: `${peer} over ${access}`, ok, value, parts: ['host'], required: false, mend }
}
