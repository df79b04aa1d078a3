/** The connection controller at work: radios and the tunnel's evidence in, actions out, a tick ten times a second. */
import {
  ConnectionController,
  type ControllerInit,
  type LinkView,
  type Radio,
} from '../access/radio/index.ts'
import type { GodwitError } from '../core/errors.ts'
import type { Recorder } from '../core/mechanism.ts'
import type { AccessUse } from './protocol.ts'

const TICK_MS = 100

export interface RadioKeeperParts {
  readonly radios: readonly Radio[]
  readonly recorder: Recorder
  /** Monotonic milliseconds, the tunnel's. */
  readonly now: () => number
  readonly wall: () => number
  /** How traffic should use an access from now on. */
  readonly use: (access: string, use: AccessUse) => void
}

export class RadioKeeper {
  readonly #parts: RadioKeeperParts
  readonly #controller: ConnectionController
  readonly #radios: ReadonlyMap<string, Radio>
  readonly #uses = new Map<string, AccessUse>()
  #timer: NodeJS.Timeout | undefined

  constructor(parts: RadioKeeperParts, init: ControllerInit) {
    this.#parts = parts
    this.#controller = new ConnectionController(init)
    this.#radios = new Map(parts.radios.map((radio) => [radio.name, radio]))
  }

  start(): void {
    for (const radio of this.#radios.values()) {
      this.#controller.addLink(radio.name, this.#parts.now())
      radio.subscribe((event) => {
        if (event.type === 'trouble') this.#report(radio.name, event.error)
        this.#controller.handleRadio(radio.name, event, this.#parts.now())
        this.#act()
      })
    }
    this.#timer = setInterval(() => {
      this.#controller.handleTimeout(this.#parts.now())
      this.#act()
    }, TICK_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
    for (const radio of this.#radios.values()) radio.close()
  }

  /** What the tunnel knows: whether a path over the access works, and when something last came over it. */
  evidence(access: string, works: boolean, heardAt: number): void {
    this.#controller.handleEvidence(access, works, heardAt, this.#parts.now())
    this.#act()
  }

  drained(access: string): void {
    this.#controller.handleDrained(access, this.#parts.now())
    this.#act()
  }

  links(): readonly LinkView[] {
    return this.#controller.links()
  }

  get counts(): ConnectionController['counts'] {
    return this.#controller.counts
  }

  #use(access: string, change: Partial<AccessUse>): void {
    const use = { draining: false, fading: false, ...this.#uses.get(access), ...change }
    this.#uses.set(access, use)
    this.#parts.use(access, use)
  }

  #report(name: string, { message, code, hint }: GodwitError): void {
    const mend = hint === undefined ? '' : `; ${hint}`
    this.#parts.recorder.log('warn', `${name}: ${message} (${code})${mend}`)
  }

  #act(): void {
    for (let action = this.#controller.poll(); action !== undefined; action = this.#controller.poll()) {
      const radio = this.#radios.get(action.link)
      switch (action.type) {
        case 'scan':
          radio?.scan()
          break
        case 'associate':
          radio?.associate(action.point)
          break
        case 'release':
          radio?.release()
          break
        case 'drain':
          this.#use(action.link, { draining: action.draining })
          break
        case 'fade':
          this.#use(action.link, { fading: action.fading })
          break
        case 'decision':
          this.#parts.recorder.decision({
            at: this.#parts.wall(),
            mechanism: 'routing',
            subject: { kind: 'access', name: action.link },
            chosen: action.chosen,
            reason: action.reason,
            evidence: action.evidence,
          })
          this.#parts.recorder.log('info', `${action.link}: ${action.chosen}: ${action.reason}`)
      }
    }
  }
}
