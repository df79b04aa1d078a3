/** What is left alone: private networks, control groups, everything at a trusted network. */
import assert from 'node:assert/strict'
import { mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { cgroupMount } from '../../../src/linux/cgroup.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, INSIDE, LaptopBed, OUTSIDE, SERVER, until } from '../../netns/anchoring/laptop-bed.ts'

usesPrograms('curl', 'ip')
usePrivateNames()

/** A private address behind the first access, beyond its subnet. */
const PRIVATE = '10.55.0.1'
const mount = cgroupMount()
const group = `godwit-test-${process.pid}`
const noGroups = groupsSkip()
let bed: LaptopBed

function groupsSkip(): string | false {
  if (mount === undefined) return 'cgroup version 2 is not mounted'
  try {
    mkdirSync(join(mount, group))
    return false
  } catch {
    return 'control groups may not be made here: needs real root'
  }
}

before(async () => {
  bed = await LaptopBed.build()
  await bed.shell('nat1', `ip address add ${PRIVATE}/32 dev lo`)
  await bed.web('nat1', '', 8080)
  const exceptions = ['private', ...(noGroups === false ? [`cgroup:${group}`] : [])]
  const file = bed.configuration
  const host = /^\[host\]$/m.test(file) ? file : `${file}\n[host]\n`
  bed.configuration = host.replace(/^\[host\]$/m, `[host]\nexcept = ${JSON.stringify(exceptions)}`)
  await bed.up()
})
after(async () => {
  await bed.close()
  if (noGroups === false) rmdirSync(join(mount!, group))
})

test('private networks are left alone: one beyond the subnet is reached past the tunnel', async () => {
  assert.equal(await bed.ask('mh', `http://${PRIVATE}:8080/`), INSIDE.acc1)
  assert.equal(await bed.seen(), ANCHOR)
})

test('a control group is left alone: what runs in it goes past the tunnel', { skip: noGroups }, async () => {
  const script = `echo $$ > ${join(mount!, group)}/cgroup.procs; exec curl -s -m 5 http://${SERVER}/`
  assert.equal(await bed.shell('mh', script), OUTSIDE.acc1)
  assert.equal(await bed.seen(), ANCHOR)
})

test('at a trusted network the tunnel rests: what is opened goes directly; elsewhere through the tunnel', async () => {
  await bed.down()
  bed.configuration = bed.configuration.replace(
    /^\[host\]$/m,
    '[host]\ntrusted = ["subnet:192.168.1.0/24+gateway:192.168.1.1"]',
  )
  await bed.up()
  assert.equal(await bed.seen(), OUTSIDE.acc1)
  assert.match(bed.log('mh'), /the tunnel is idle: acc1 is on a trusted network/)
  await bed.shell('mh', 'ip link set acc1 down')
  await until('away from home everything goes through the tunnel', async () => (await bed.seen()) === ANCHOR)
})
