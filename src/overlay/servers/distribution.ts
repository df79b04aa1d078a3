/**
 * What an account server apart tells its coordinator (Fig. 4 steps 6, 7): each node whose login was made, prolonged or ended. The
 * store notes every change, also those of commands in other processes, until the coordinator has it: nothing is lost when
 * either of both is away. A node that changes again meanwhile is told again. Each change has a number greater than all before, so
 * that one that is held back on its way undoes none after it.
 */
import { fromHex } from '../../core/bytes.ts'
import type { Change, Store } from '../store/store.ts'
import { type Message, Status, Type } from '../wire/message.ts'

export interface DistributionParts {
  readonly store: Store
  readonly ask: (message: Omit<Message, 'transaction'>, ms: number) => Promise<Message | undefined>
  readonly log: (message: string) => void
}

/** Changes told at a time, and how long one waits for its answer (ms). */
const AT_ONCE = 64
const ANSWER_MS = 3000
/** Between two looks at what other processes have changed (ms). */
const LOOK_MS = 1000

export class Distribution {
  readonly #parts: DistributionParts
  readonly #timer: NodeJS.Timeout
  #running: Promise<boolean> | undefined
  #isClosed = false

  constructor(parts: DistributionParts) {
    this.#parts = parts
    this.#timer = setInterval(() => void this.publish(), LOOK_MS)
    this.#timer.unref()
  }

  /** Tells what there is to tell, also what came while it was telling. False: the coordinator does not answer. */
  async publish(): Promise<boolean> {
    // What is under way may have been read before the caller's change.
    await this.#running
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
    })
    return await this.#running
  }

  async stop(): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#timer)
    await this.#running
  }

  async #run(): Promise<boolean> {
    const { store, log } = this.#parts
    try {
      while (!this.#isClosed) {
        store.refresh()
        const changes = store.changes(AT_ONCE)
        if (changes.length === 0) return await this.#endWhole()
        const told = await Promise.all(changes.map((change) => this.#tell(change)))
        if (this.#isClosed) return false
        for (const [i, change] of changes.entries()) if (told[i] === true) store.distributed(change)
        store.commit()
        if (told.includes(false)) return false
      }
    } catch (error) {
      log(`account server: ${(error as Error).message}`)
    }
    return false
  }

  /** All nodes were told: what the coordinator has beside them is no more. */
  async #endWhole(): Promise<boolean> {
    const { store, ask, log } = this.#parts
    const { whole } = store
    if (whole === undefined) return true
    const answer = await ask({ type: Type.KEY_DISTRIBUTION, seq: whole }, ANSWER_MS)
    if (this.#isClosed) return false
    if (answer?.status === Status.DONE) {
      store.toldWhole(whole)
      store.commit()
    } else if (answer !== undefined) log('the coordinator refuses to remove nodes that are no more')
    return answer?.status === Status.DONE
  }

  async #tell({ node: name, seq }: Change): Promise<boolean> {
    const node = this.#parts.store.nodeByName(name)
    const id = fromHex(node?.accountId ?? '')
    const login =
      node === undefined || !id.ok
        ? {}
        : {
            ...{ account: node.account, accountId: id.value, publicKey: node.publicKey },
            ...{ keyId: node.keyId, key: node.key },
            ...(node.expires !== undefined && { expires: node.expires }),
          }
    const answer = await this.#parts.ask(
      { type: Type.KEY_DISTRIBUTION, nodeName: name, seq, ...login },
      ANSWER_MS,
    )
    if (answer !== undefined && answer.status !== Status.DONE)
      this.#parts.log(`the coordinator refuses ${name}: is this the account server of its zone?`)
    return answer?.status === Status.DONE
  }
}
