/** Gateways get to know each other by their cards; nothing is written that is wrong, nothing over what is there. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import { loadRouterConfig } from '../../../src/host/provisioning/anchoring.ts'
import { addSite, initRouter, routerCard } from '../../../src/host/provisioning/routing.ts'
import { State } from '../../../src/host/stores/state.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-routers-'))
after(() => rmSync(folder, { recursive: true }))
let made = 0
const state = () => new State({ state: join(folder, String(made++)) })
const HOME = { endpoint: 'home.example.org:51820', subnets: ['10.2.0.0/24', 'fd00:2::/64'], accesses: [] }
const BUS = { subnets: ['10.1.0.0/24'], accesses: ['wlan0', 'wwan*'] }

function refused(work: () => unknown, what: RegExp): void {
  assert.throws(work, (error: unknown) => error instanceof GodwitError && what.test(error.message))
}

test('OH-40: two gateways know each other by their cards, which hold no secret', () => {
  const [home, bus] = [state(), state()]
  const cards = { home: initRouter(home, HOME).card, bus: initRouter(bus, BUS).card }
  assert.equal(routerCard(home), cards.home)
  addSite(home, 'bus', cards.bus)
  addSite(bus, 'home', cards.home, ['10.3.0.0/24'])
  const [site] = loadRouterConfig(bus).router.site
  assert.equal(site?.endpoint, HOME.endpoint)
  assert.deepEqual(site?.subnets, [...HOME.subnets, '10.3.0.0/24'])
  assert.equal(loadRouterConfig(home).router.site[0]?.endpoint, undefined)
  for (const [own, card] of [
    [home, cards.home],
    [bus, cards.bus],
  ] as const) {
    const secret = readFileSync(own.keyFile, 'utf8').trim()
    assert.ok(!Buffer.from(card.split('.')[1]!, 'base64url').toString().includes(secret))
  }
})

test('a card that was cut, changed, taken twice or leads nowhere is refused, and nothing is written', () => {
  const [home, bus, boat] = [state(), state(), state()]
  initRouter(home, HOME)
  initRouter(bus, BUS)
  const { card } = initRouter(boat, { ...BUS, subnets: ['10.3.0.0/24'] })
  const before = readFileSync(home.configFile, 'utf8')
  for (let length = 0; length < card.length; length += 7)
    refused(() => addSite(home, 'boat', card.slice(0, length)), /card/)
  refused(
    () =>
      addSite(
        home,
        'boat',
        card.replace(/\.(.)/, (_, c) => `.${c === 'e' ? 'f' : 'e'}`),
      ),
    /card/,
  )
  refused(() => addSite(home, 'a boat', card), /not a valid site name/)
  refused(() => addSite(bus, 'boat', card), /neither gateway can be reached/)
  assert.equal(readFileSync(home.configFile, 'utf8'), before)
  refused(() => addSite(home, 'boat', routerCard(home)), /own card/)
  addSite(home, 'boat', card)
  refused(() => addSite(home, 'ship', card), /already: boat/)
})

test('what `router init` is not told, or told wrong, it says; an existing configuration stays', () => {
  const one = state()
  refused(() => initRouter(one, { ...BUS, subnets: [] }), /--subnet/)
  refused(() => initRouter(one, { ...BUS, subnets: ['10.1.0.0/33'] }), /--subnet 10.1.0.0\/33/)
  refused(() => initRouter(one, { ...BUS, accesses: [] }), /--access/)
  refused(() => initRouter(one, { ...HOME, endpoint: 'home' }), /--endpoint/)
  initRouter(one, HOME)
  refused(() => initRouter(one, HOME), /exists already/)
})
