/**
 * AccessMachine against a simulated kernel: whatever happens to links, addresses and routes, in any order, what the
 * machine says follows from what the kernel has, and its events tell the whole story.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Access,
  AccessMachine,
  type AddressFacts,
  type LinkFacts,
  type RouteFacts,
} from '../../../src/access/machine.ts'

type Step =
  | { readonly do: 'add' | 'remove' | 'up' | 'down' | 'plug' | 'unplug'; readonly link: number }
  | {
      readonly do: 'address' | 'no-address' | 'route' | 'no-route'
      readonly link: number
      readonly v6: boolean
    }
  | { readonly do: 'resync' | 'lose-events' }

const index = fc.integer({ min: 1, max: 3 })
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constantFrom('add', 'up', 'down', 'plug', 'unplug'), link: index }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('remove' as const), link: index }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('address', 'no-address', 'route', 'no-route'),
      link: index,
      v6: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('resync', 'lose-events') }) },
)

/** Just enough of Linux: IPv4 routes go silently with a link that is set down, IPv6 ones with an event. */
class Kernel {
  readonly links = new Map<number, LinkFacts>()
  readonly addresses = new Map<string, AddressFacts>()
  readonly routes = new Map<string, RouteFacts>()
  readonly machine: AccessMachine
  /** Events are being lost until the next resync. */
  deaf = false
  now = 0

  constructor(machine: AccessMachine) {
    this.machine = machine
  }

  #tell(event: Parameters<AccessMachine['handleEvent']>[0]): void {
    if (!this.deaf) this.machine.handleEvent(event, this.now)
  }

  #setLink(index: number, changes: Partial<LinkFacts>): void {
    const before = this.links.get(index)
    if (before === undefined) return
    const link = { ...before, ...changes }
    link.carrier &&= link.up
    this.links.set(index, link)
    if (before.up && !link.up)
      for (const [key, route] of this.routes) {
        if (route.dev !== link.name) continue
        this.routes.delete(key)
        if (route.family === 6) this.#tell({ type: 'route-gone', route })
      }
    this.#tell({ type: 'link', link })
  }

  step(step: Step): void {
    this.now++
    if (!('link' in step)) {
      this.deaf = step.do === 'lose-events'
      if (this.deaf) return
      this.machine.handleSnapshot(
        {
          links: [...this.links.values()],
          addresses: [...this.addresses.values()],
          routes: [...this.routes.values()],
        },
        this.now,
      )
      return
    }
    const link = this.links.get(step.link)
    const name = `eth${step.link}`
    switch (step.do) {
      case 'add':
        if (link !== undefined) return
        this.links.set(step.link, {
          index: step.link,
          name,
          kind: undefined,
          up: false,
          carrier: false,
          operState: 'down',
          loopback: false,
          mtu: 1500,
        })
        this.#tell({ type: 'link', link: this.links.get(step.link)! })
        return
      case 'remove':
        if (link === undefined) return
        for (const [key, route] of this.routes) if (route.dev === name) this.routes.delete(key)
        for (const [key, address] of this.addresses)
          if (address.index === step.link) this.addresses.delete(key)
        this.links.delete(step.link)
        this.#tell({ type: 'link-gone', link })
        return
      case 'up':
        this.#setLink(step.link, { up: true })
        return
      case 'down':
        this.#setLink(step.link, { up: false })
        return
      case 'plug':
        this.#setLink(step.link, { carrier: true })
        return
      case 'unplug':
        this.#setLink(step.link, { carrier: false })
        return
    }
    if (link === undefined || !('v6' in step)) return
    const family = step.v6 ? 6 : 4
    const key = `${step.link} ${family}`
    const address: AddressFacts = {
      index: step.link,
      family,
      address: step.v6 ? `2001:db8::${step.link}` : `10.0.${step.link}.2`,
      prefixLength: step.v6 ? 64 : 24,
      scope: 'global',
      tentative: false,
      deprecated: false,
    }
    const route: RouteFacts = {
      family,
      table: 254,
      type: 'unicast',
      to: step.v6 ? 'default6' : 'default',
      via: step.v6 ? 'fe80::1' : `10.0.${step.link}.1`,
      dev: name,
    }
    switch (step.do) {
      case 'address':
        this.addresses.set(key, address)
        this.#tell({ type: 'address', address })
        return
      case 'no-address':
        if (this.addresses.delete(key)) this.#tell({ type: 'address-gone', address })
        return
      case 'route':
        if (!link.up) return
        this.routes.set(key, route)
        this.#tell({ type: 'route', route })
        return
      case 'no-route':
        if (this.routes.delete(key)) this.#tell({ type: 'route-gone', route })
        return
    }
  }

  /** Names that should be up, from first principles. */
  usable(): string[] {
    return [...this.links.values()]
      .filter(
        (link) =>
          link.up &&
          link.carrier &&
          [4, 6].some((family) => {
            const key = `${link.index} ${family}`
            return this.addresses.has(key) && this.routes.has(key)
          }),
      )
      .map((link) => link.name)
      .sort()
  }
}

test('what the machine says follows from what the kernel has, and its events tell all of it', () => {
  fc.assert(
    fc.property(fc.array(anyStep, { maxLength: 80 }), (steps) => {
      const machine = new AccessMachine()
      const kernel = new Kernel(machine)
      const told = new Map<string, Access>()
      for (const step of steps) {
        kernel.step(step)
        for (let event = machine.poll(); event !== undefined; event = machine.poll()) {
          assert.equal(event.type, 'access')
          if (event.type !== 'access') continue
          const { access, before, cause } = event
          assert.deepEqual(before, told.get(access.name), 'an event does not continue the one before')
          assert.equal(event.at, kernel.now)
          if (before !== undefined) {
            assert.ok(access.generation >= before.generation, 'a generation went back')
            if (before.state === 'down' && access.state === 'up')
              assert.ok(access.generation > before.generation, 'came back as the same generation')
          }
          if (cause === 'removed') told.delete(access.name)
          else told.set(access.name, access)
        }
        if (kernel.deaf) continue
        const up = machine.accesses().filter((each) => each.state === 'up')
        assert.deepEqual(up.map((each) => each.name).sort(), kernel.usable())
        assert.deepEqual(
          new Map(machine.accesses().map((each) => [each.name, each.state])),
          new Map([...told].map(([name, access]) => [name, access.state])),
        )
      }
      kernel.step({ do: 'resync' })
      const up = machine.accesses().filter((each) => each.state === 'up')
      assert.deepEqual(up.map((each) => each.name).sort(), kernel.usable(), 'after lost events and a resync')
    }),
    { numRuns: 500 },
  )
})
