/**
 * Common parts of radios that are controlled over the system bus: the connection and reconnection, waiting for the
 * service, listeners and their current state, and reports of trouble, each reported once.
 */
import { GodwitError } from '../../core/errors.ts'
import { absentError, Bus, type Service, type Signal, type Variant } from '../../linux/dbus/index.ts'
import type { AccessPoint, Radio, RadioEvent } from './radio.ts'

/** Looks again for a bus, service or device that is not there. */
const RETRY_MS = 2_000
/** The object path that means none. */
export const NO_OBJECT = '/'

export interface BusRadioOptions {
  /** Address of the bus; absent: the system's. */
  readonly address?: string
}

export abstract class BusRadio implements Radio {
  readonly name: string
  readonly #service: Service
  readonly #address: string | undefined
  readonly #listeners: ((event: RadioEvent) => void)[] = []
  #bus: Bus | undefined
  #retry: NodeJS.Timeout | undefined
  #present = false
  #closed = false
  #trouble: GodwitError | undefined
  #associated: (RadioEvent & { type: 'associated' }) | undefined

  constructor(name: string, service: Service, options: BusRadioOptions = {}) {
    this.name = name
    this.#service = service
    this.#address = options.address
    // After the constructors of what extends this.
    queueMicrotask(() => void this.#open())
  }

  abstract scan(): void
  abstract associate(point: AccessPoint): void
  abstract release(): void

  /**
   * The service is on the bus: finds the device and reports its state. Exceptions are reported as trouble, and it is
   * called again.
   */
  protected abstract find(bus: Bus): Promise<void>
  /** The device is not known any more: service, bus or device went. */
  protected abstract forget(): void
  /** A signal of the service. */
  protected abstract hear(signal: Signal): void

  subscribe(listener: (event: RadioEvent) => void): void {
    this.#listeners.push(listener)
    if (this.#trouble !== undefined) listener({ type: 'trouble', error: this.#trouble })
    if (this.#associated !== undefined) listener(this.#associated)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#bus?.close()
  }

  /** The access point last reported to listeners, while the association lasts. */
  protected get point(): string | undefined {
    return this.#associated?.point
  }

  protected tell(event: RadioEvent): void {
    if (this.#closed) return
    if (event.type === 'associated') this.#associated = event
    else if (event.type === 'lost') this.#associated = undefined
    for (const listener of this.#listeners) listener(event)
  }

  /** No longer associated, on request: no event. */
  protected left(): void {
    this.#associated = undefined
  }

  protected trouble(error: GodwitError): void {
    if (this.#trouble?.code === error.code && this.#trouble.message === error.message) return
    this.#trouble = error
    this.tell({ type: 'trouble', error })
  }

  /** The current operation failed: an event for the controller, and trouble if the user has to fix something. */
  protected failed(op: 'scan' | 'associate', error: unknown): void {
    const known = error instanceof GodwitError ? error : undefined
    if (known?.code === 'BUS_REFUSED') this.trouble(known)
    this.tell({ type: 'failed', op, reason: known?.message ?? String(error) })
  }

  /** The bus while the device is known. Throws what is the trouble. */
  protected get bus(): Bus {
    if (this.#bus !== undefined && this.#present) return this.#bus
    throw this.#trouble ?? absentError(this.#service)
  }

  /** The device went: looks for it until it is there again. */
  protected lookAgain(): void {
    this.#gone()
    this.#later()
  }

  /** Something came that may be the device. */
  protected lookNow(): void {
    if (!this.#present) void this.#find()
  }

  async #open(): Promise<void> {
    if (this.#closed) return
    try {
      const bus = await Bus.open(this.#address, (error) => {
        this.#bus = undefined
        this.#gone()
        this.trouble(error)
        this.#later()
      })
      if (this.#closed) {
        bus.close()
        return
      }
      this.#bus = bus
      await bus.follow(this.#service, {
        owned: (present) => {
          if (present) void this.#find()
          else {
            this.#gone()
            this.trouble(absentError(this.#service))
          }
        },
        signal: (signal) => this.hear(signal),
      })
      if (!(await bus.present(this.#service))) this.trouble(absentError(this.#service))
    } catch (error) {
      this.trouble(asError(error))
      // A connection that cannot be listened on is of no use.
      this.#bus?.close()
      this.#bus = undefined
      this.#gone()
      this.#later()
    }
  }

  async #find(): Promise<void> {
    if (this.#bus === undefined || this.#closed) return
    try {
      this.#present = true
      await this.find(this.#bus)
      this.#trouble = undefined
      clearTimeout(this.#retry)
    } catch (error) {
      this.#present = false
      this.trouble(asError(error))
      this.#later()
    }
  }

  #gone(): void {
    this.#present = false
    if (this.#associated !== undefined) this.tell({ type: 'lost', reason: `${this.#service.title} lost it` })
    this.forget()
  }

  #later(): void {
    clearTimeout(this.#retry)
    if (this.#closed) return
    this.#retry = setTimeout(() => void (this.#bus === undefined ? this.#open() : this.#find()), RETRY_MS)
  }
}

function asError(error: unknown): GodwitError {
  return error instanceof GodwitError ? error : new GodwitError('INTERNAL', String(error), { cause: error })
}

/** The value of a property where it has the type that it should have. */
export function numberOf(variant: Variant | undefined): number | undefined {
  return typeof variant?.value === 'number' ? variant.value : undefined
}

export function textOf(variant: Variant | undefined): string | undefined {
  return typeof variant?.value === 'string' ? variant.value : undefined
}

export function pathsOf(variant: Variant | undefined): readonly string[] {
  const { value } = variant ?? {}
  return Array.isArray(value) ? value.filter((each): each is string => typeof each === 'string') : []
}

/** PropertiesChanged of the specification ("Standard Interfaces"): of which interface, and what is now. */
export function changedOf(signal: Signal): { of: string; changed: ReadonlyMap<string, Variant> } | undefined {
  if (signal.interface !== 'org.freedesktop.DBus.Properties' || signal.member !== 'PropertiesChanged')
    return undefined
  const [of, changed] = signal.body
  return typeof of === 'string' && changed instanceof Map
    ? { of, changed: changed as ReadonlyMap<string, Variant> }
    : undefined
}
