/** What every driver of a radio does (src/access/radio/radio.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AccessPoint, Radio, RadioEvent } from '../../src/access/radio/radio.ts'

/** A radio, and the world that it is in. */
export interface RadioBed {
  readonly radio: Radio
  /** What it hears; it is associated with the first at start. A modem hears one. */
  readonly points: readonly AccessPoint[]
  /** Strengths are told with this much tolerance, dB. */
  readonly tolerance: number
  /** The strength of the point in use is now this. */
  setSignal(dbm: number): void
  /** The point in use goes. */
  drop(): void
  /** The next association that is asked for is refused. */
  refuse(): void
  /** Whatever drives the radio goes, and comes back. */
  stop(): Promise<void>
  start(): Promise<void>
  close(): Promise<void>
}

type Told<T extends RadioEvent['type']> = RadioEvent & { type: T }

/** Keeps what a radio tells, and waits for it. */
export class Ear {
  readonly #events: RadioEvent[] = []
  #wake: () => void = () => {}

  constructor(radio: Radio) {
    radio.subscribe((event) => {
      this.#events.push(event)
      this.#wake()
    })
  }

  /** The next event of a type, also one that came already. Those before it are forgotten, which `none` looks at first. */
  async next<T extends RadioEvent['type']>(
    type: T,
    fits: (event: Told<T>) => boolean = () => true,
    none: readonly RadioEvent['type'][] = [],
  ): Promise<Told<T>> {
    for (;;) {
      for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) {
        if (event.type === type && fits(event as Told<T>)) return event as Told<T>
        assert.ok(!none.includes(event.type), `${JSON.stringify(event)} while waiting for ${type}`)
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

/** Registers the tests. `skip` is why they cannot run here. */
export function radioCompliance(
  name: string,
  make: () => Promise<RadioBed>,
  skip: string | false = false,
): void {
  const check = (what: string, body: (bed: RadioBed, ear: Ear) => Promise<void>) =>
    test(`OH-38: ${name}: ${what}`, { skip }, async () => {
      const bed = await make()
      try {
        const ear = new Ear(bed.radio)
        await ear.next('associated')
        await body(bed, ear)
      } finally {
        await bed.close()
      }
    })
  const near = (bed: RadioBed, dbm: number) => (event: { dbm: number }) =>
    Math.abs(event.dbm - dbm) <= bed.tolerance

  check('tells what holds at start, also to who asks later', async ({ radio, points }) => {
    const later = await new Ear(radio).next('associated')
    assert.deepEqual(later, { type: 'associated', point: points[0]!.id, network: points[0]!.network })
  })

  check('tells the strength of its point as it changes', async (bed, ear) => {
    bed.setSignal(-58)
    await ear.next('signal', near(bed, -58))
    bed.setSignal(-81)
    await ear.next('signal', near(bed, -81))
  })

  check('scans, as often as it is asked to', async (bed, ear) => {
    for (let i = 0; i < 2; i++) {
      bed.radio.scan()
      const { points } = await ear.next('points')
      assert.deepEqual(
        points.map(({ id, network }) => ({ id, network })),
        bed.points.map(({ id, network }) => ({ id, network })),
      )
      for (const [index, { dbm }] of points.entries()) assert.ok(near(bed, bed.points[index]!.dbm)({ dbm }))
    }
  })

  check('leaves the point in use for the one it is told, and back', async (bed, ear) => {
    if (bed.points.length < 2) return
    bed.radio.scan()
    const { points } = await ear.next('points')
    for (const index of [1, 0]) {
      bed.radio.associate(points[index]!)
      const { point, network } = await ear.next('associated')
      assert.deepEqual({ point, network }, { point: points[index]!.id, network: points[index]!.network })
    }
  })

  check('says that it lost its point, and associates again', async (bed, ear) => {
    bed.drop()
    const { reason } = await ear.next('lost')
    assert.notEqual(reason, '')
    bed.radio.associate(bed.points[0]!)
    await ear.next('associated', ({ point }) => point === bed.points[0]!.id, ['failed'])
  })

  check('says that an association failed, why, and tries again when told', async (bed, ear) => {
    bed.drop()
    await ear.next('lost')
    bed.refuse()
    bed.radio.associate(bed.points.at(-1)!)
    const { op, reason } = await ear.next('failed', undefined, ['associated'])
    assert.equal(op, 'associate')
    assert.match(reason, /\w/)
    bed.radio.associate(bed.points.at(-1)!)
    await ear.next('associated', ({ point }) => point === bed.points.at(-1)!.id)
  })

  check('lets go without calling it a loss, and stays so until told', async (bed, ear) => {
    bed.radio.release()
    bed.radio.scan()
    await ear.next('points', undefined, ['lost', 'associated'])
    bed.radio.associate(bed.points[0]!)
    await ear.next('associated', undefined, ['lost'])
  })

  check('says what the user has to mend, once, and goes on when it is mended', async (bed, ear) => {
    await bed.stop()
    const { error } = await ear.next('trouble')
    assert.match(error.code, /^(BUS|RADIO)_[A-Z_]+$/)
    assert.match(error.hint ?? '', /\w/)
    bed.radio.scan()
    await ear.next('failed', ({ op }) => op === 'scan', ['trouble'])
    await bed.start()
    await ear.next('associated')
    bed.radio.scan()
    await ear.next('points')
  })
}
