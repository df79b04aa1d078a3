/**
 * What a notification server apart tells its coordinator of connections (NOTIFICATION_STATE). One report of a node is under way at
 * a time, and says how it is when it leaves: none that was repeated overtakes a later one.
 */
import { Connection } from '../wire/message.ts'

export interface ConnectionReportsParts {
  /** The token of the node, if it is connected now. */
  readonly tokenOf: (name: string) => Uint8Array | undefined
  /** False: the coordinator has not answered. */
  readonly tell: (name: string, token: Uint8Array, status: number) => Promise<boolean>
}

/**
 * Of several coordinators, who is told how a node's connection is: the one that has announced the node, `owner`. Where that is not there, all others:
 * one of them may have to wake the node.
 */
export function routeReport(
  owner: string | undefined,
  there: readonly string[],
  status: number,
): { readonly to: readonly string[]; readonly status: number } {
  if (owner !== undefined && there.includes(owner)) return { to: [owner], status }
  const isOthers = owner !== undefined && status === Connection.NOW
  return { to: there, status: isOthers ? Connection.BEFORE : status }
}

interface Report {
  /** The token that the connection that changed last had. */
  token: Uint8Array
  hasChanged: boolean
}

export class ConnectionReports {
  readonly #parts: ConnectionReportsParts
  readonly #underWay = new Map<string, Report>()

  constructor(parts: ConnectionReportsParts) {
    this.#parts = parts
  }

  /** The connection has begun or ended. False: the coordinator has not answered. */
  async changed(name: string, token: Uint8Array): Promise<boolean> {
    return await this.#report(name, token, Connection.NOW)
  }

  /** The node was connected before the coordinator was started. */
  async was(name: string, token: Uint8Array): Promise<boolean> {
    return await this.#report(name, token, Connection.BEFORE)
  }

  async #report(name: string, token: Uint8Array, connected: number): Promise<boolean> {
    const before = this.#underWay.get(name)
    if (before !== undefined) {
      before.token = token
      before.hasChanged = true
      return true
    }
    const report: Report = { token, hasChanged: false }
    this.#underWay.set(name, report)
    try {
      for (;;) {
        report.hasChanged = false
        const now = this.#parts.tokenOf(name)
        const status = now === undefined ? Connection.ENDED : connected
        const isTold = await this.#parts.tell(name, now ?? report.token, status)
        if (!report.hasChanged) return isTold
      }
    } finally {
      this.#underWay.delete(name)
    }
  }
}
