"""The warp kernels of the renderer: rasterise triangles, then shade every visible sample (CPU, one thread)."""

import warp as wp

wp.config.log_level = wp.LOG_WARNING

SKIN, EYE, TEETH, TONGUE, LASH, HAND, HAIR, CLOTH, FRAME, LENS, HAT, THING = (
    wp.constant(i) for i in range(12)
)
TILE = wp.constant(256)


@wp.struct
class Look:
    """Drawn appearance that a sample's colour depends on; colours are linear RGB in 0-1."""

    key_dir: wp.vec3
    key: wp.vec3
    fill_dir: wp.vec3
    fill: wp.vec3
    rim_dir: wp.vec3
    rim: wp.vec3
    sky: wp.vec3
    ground: wp.vec3
    lip: wp.vec3
    brow: wp.vec3
    hair: wp.vec3
    beard: wp.vec3
    iris: wp.vec3
    sclera: wp.vec3
    liner: wp.vec3
    flesh: wp.vec3
    offset: wp.vec2
    gloss: float
    lip_strength: float
    lip_gloss: float
    mottle: float
    liner_width: float
    liner_strength: float
    shadow_eye: float
    brow_inner: float
    brow_outer: float
    brow_height: float
    brow_arch: float
    brow_drop: float
    brow_thick: float
    brow_density: float
    pupil: float
    shadow_strength: float
    wrinkle: float
    lens_tint: wp.vec3
    lens_glare: float


@wp.func
def noise(tile: wp.array2d(dtype=float), u: float, v: float) -> float:
    """Bilinear lookup in the repeating noise tile; u and v in cells."""
    fu = wp.floor(u)
    fv = wp.floor(v)
    a = u - fu
    b = v - fv
    i = int(fu) & (TILE - 1)
    j = int(fv) & (TILE - 1)
    k = (i + 1) & (TILE - 1)
    m = (j + 1) & (TILE - 1)
    top = tile[j, i] * (1.0 - a) + tile[j, k] * a
    low = tile[m, i] * (1.0 - a) + tile[m, k] * a
    return top * (1.0 - b) + low * b


@wp.func
def step(low: float, high: float, x: float) -> float:
    t = wp.clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def mix(a: wp.vec3, b: wp.vec3, t: float) -> wp.vec3:
    return a * (1.0 - t) + b * t


@wp.kernel(enable_backward=False)
def vertex_normals(
    points: wp.array(dtype=wp.vec3), triangles: wp.array2d(dtype=int), normals: wp.array(dtype=wp.vec3)
):
    """Area-weighted normals, accumulated (not normalised)."""
    t = wp.tid()
    i = triangles[t, 0]
    j = triangles[t, 1]
    k = triangles[t, 2]
    n = wp.cross(points[j] - points[i], points[k] - points[i])
    wp.atomic_add(normals, i, n)
    wp.atomic_add(normals, j, n)
    wp.atomic_add(normals, k, n)


@wp.kernel(enable_backward=False)
def rasterise(
    screen: wp.array(dtype=wp.vec3),
    triangles: wp.array2d(dtype=int),
    material: wp.array(dtype=int),
    alpha: wp.array(dtype=wp.vec3),
    tile: wp.array2d(dtype=float),
    casts_only: int,
    depth: wp.array2d(dtype=float),
    ids: wp.array2d(dtype=int),
):
    """Depth test of one triangle against every sample it covers.

    screen holds sample x, sample y and nearness (larger = nearer, linear on the screen). The device is the CPU, where
    warp runs the launch as one loop, so plain reads and writes of the buffers cannot race.
    """
    t = wp.tid()
    mat = material[t]
    ia = triangles[t, 0]
    ib = triangles[t, 1]
    ic = triangles[t, 2]
    a = screen[ia]
    b = screen[ib]
    c = screen[ic]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if wp.abs(area) < 1.0e-9:
        return
    if casts_only == 1 and (mat == LENS or mat == LASH or mat == EYE):
        return
    if area > 0.0 and mat <= TONGUE and mat != TEETH and casts_only == 0:
        return  # facing away (the screen's y axis points down)
    height = depth.shape[0]
    width = depth.shape[1]
    x0 = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])))), 0)
    x1 = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])))), width - 1)
    y0 = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])))), 0)
    y1 = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])))), height - 1)
    if x1 < x0 or y1 < y0 or a[2] <= 0.0 or b[2] <= 0.0 or c[2] <= 0.0:
        return
    inv = 1.0 / area
    sheer = mat == LASH or mat == HAIR or mat == LENS
    du = (b[1] - c[1]) * inv
    dv = (c[1] - a[1]) * inv
    for y in range(y0, y1 + 1):
        fy = float(y)
        u0 = (b[0] * (c[1] - fy) - (b[1] - fy) * c[0]) * inv
        v0 = (c[0] * (a[1] - fy) - (c[1] - fy) * a[0]) * inv
        for x in range(x0, x1 + 1):
            fx = float(x)
            u = u0 + du * fx
            v = v0 + dv * fx
            w = 1.0 - u - v
            if u >= 0.0 and v >= 0.0 and w >= 0.0:
                z = u * a[2] + v * b[2] + w * c[2]
                if z > depth[y, x]:
                    solid = wp.int32(1)
                    if sheer:
                        s = alpha[ia] * u + alpha[ib] * v + alpha[ic] * w
                        cover = s[0]
                        if mat == HAIR and casts_only == 0:
                            cover = (
                                cover
                                + 0.9 * (noise(tile, s[1], s[2]) - 0.5)
                                + 0.5 * (noise(tile, 3.1 * s[1] + 17.0, s[2]) - 0.5)
                            )
                        cell = (x & 1) * 2 + ((x + y) & 1)
                        if cover <= (float(cell) + 0.5) * 0.25:
                            solid = 0
                    if solid == 1:
                        depth[y, x] = z
                        ids[y, x] = t


@wp.func
def unrolled(p: wp.vec3) -> float:
    """Length (dm) round the head from the middle of the face, so that patterns on it keep their scale on its sides."""
    return wp.atan2(p[0], p[2] - 0.3)


@wp.func
def brow_mask(p: wp.vec3, look: Look, tile: wp.array2d(dtype=float)) -> float:
    """How much brow hair covers template position p (0-1)."""
    ax = wp.abs(p[0])
    s = (ax - look.brow_inner) / (look.brow_outer - look.brow_inner)
    if s < -0.15 or s > 1.15 or p[2] < 0.6:
        return 0.0
    rise = look.brow_arch * (1.0 - (s - 0.62) * (s - 0.62) / 0.3844)
    fall = look.brow_drop * wp.max(s - 0.62, 0.0) * wp.max(s - 0.62, 0.0) / 0.1444
    centre = look.brow_height + rise - fall
    half = look.brow_thick * (1.0 - 0.62 * step(0.45, 1.05, s)) * (0.82 + 0.18 * step(-0.1, 0.2, s))
    d = (p[1] - centre) / half
    if wp.abs(d) > 1.8:
        return 0.0
    strand = noise(tile, s * 46.0 + d * (5.0 - 3.0 * s) + look.offset[0], d * 2.2 + look.offset[1])
    edge = wp.abs(d) + 0.55 * (strand - 0.5)
    ends = step(-0.06, 0.1, s) * (1.0 - step(0.9, 1.06, s))
    return (1.0 - step(0.62, 1.12, edge)) * ends * (0.55 + 0.45 * step(0.2, 0.7, strand + 0.25))


@wp.func
def eye_colour(p: wp.vec3, look: Look, tile: wp.array2d(dtype=float)) -> wp.vec3:
    """Albedo of the eyeball; p is the unit position in the eye's own frame (z to the pupil)."""
    r = wp.sqrt(p[0] * p[0] + p[1] * p[1])
    if p[2] < 0.0:
        r = 2.0 - r
    angle = wp.atan2(p[1], p[0])
    streak = noise(tile, angle * 9.0 + 40.0, r * 12.0 + look.offset[1])
    iris = look.iris * (0.6 + 0.8 * streak) * (1.0 - 0.55 * step(0.34, 0.43, r))
    white = mix(look.sclera, wp.vec3(0.55, 0.28, 0.24), 0.45 * step(0.55, 1.1, r))
    colour = mix(iris, white, step(0.405, 0.455, r))
    return colour * step(look.pupil - 0.02, look.pupil + 0.03, r) + wp.vec3(0.004, 0.004, 0.004)


@wp.func
def skin_colour(
    base: wp.vec3, p: wp.vec3, aux: wp.vec4, look: Look, tile: wp.array2d(dtype=float), fine: float
) -> wp.vec3:
    """Albedo of the skin with its paint: blotches, lips, brows, lid line, eye shadow, stubble; aux = lip, lid, beard, scalp."""
    around = unrolled(p)
    blotch = noise(tile, around * 8.0 + look.offset[0], p[1] * 9.0 + look.offset[1]) - 0.5
    colour = base * (1.0 + look.mottle * (blotch + 0.7 * (fine - 0.5)))
    if look.wrinkle > 0.0 and p[1] > 7.55:
        line = noise(tile, p[0] * 5.0 + look.offset[1], p[1] * 26.0 + look.offset[0])
        colour = colour * (1.0 - look.wrinkle * step(0.55, 0.8, line) * step(7.55, 7.7, p[1]))
    lips = step(-0.012, 0.010, aux[0])
    if lips > 0.0:
        cell = noise(tile, p[0] * 60.0 + look.offset[0], p[1] * 8.0)
        colour = mix(colour, look.lip * (0.85 + 0.3 * cell), lips * look.lip_strength)
    if aux[1] < 0.2:
        line = wp.exp(-aux[1] * aux[1] / (look.liner_width * look.liner_width))
        colour = mix(colour, look.liner, line * look.liner_strength)
        shade = wp.exp(-aux[1] * aux[1] / 0.006) * look.shadow_eye
        colour = mix(colour, look.liner, shade * 0.6)
    if aux[2] > 0.0:
        hairs = noise(tile, around * 80.0 + look.offset[1], p[1] * 45.0 + look.offset[0])
        cover = step(0.0, 1.0, aux[2] * (0.55 + 0.9 * hairs))
        colour = mix(colour, look.beard * (0.6 + 0.8 * fine), cover * wp.min(1.0, aux[2] * 1.6))
    if aux[3] > 0.0:
        hairs = noise(tile, around * 30.0 + look.offset[1], (p[1] + p[2]) * 14.0 + look.offset[0])
        cover = step(0.25, 0.75, aux[3] * (0.6 + 0.8 * hairs))
        colour = mix(colour, look.hair * (0.6 + 0.8 * fine), cover)
    brow = brow_mask(p, look, tile)
    return mix(colour, look.brow, brow * look.brow_density)


@wp.kernel(enable_backward=False)
def shade(
    ids: wp.array2d(dtype=int),
    depth: wp.array2d(dtype=float),
    screen: wp.array(dtype=wp.vec3),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    place: wp.array(dtype=wp.vec3),
    colours: wp.array(dtype=wp.vec3),
    aux: wp.array(dtype=wp.vec4),
    ao: wp.array(dtype=float),
    triangles: wp.array2d(dtype=int),
    material: wp.array(dtype=int),
    tile: wp.array2d(dtype=float),
    look: Look,
    eye: wp.vec3,
    to_light: wp.mat44,
    shadow: wp.array2d(dtype=float),
    background: wp.array2d(dtype=wp.vec3),
    image: wp.array2d(dtype=wp.vec3),
):
    """Colour of one pixel: the mean of its 2×2 samples.

    Samples of one material at about one depth are shaded once, at the pixel's centre, so paint lands where the labels say.
    """
    row, col = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    last = wp.int32(-1)  # wp.int32 and wp.float32 mark what changes inside a loop
    last_near = wp.float32(0.0)
    colour = wp.vec3(0.0, 0.0, 0.0)
    for sub in range(4):
        y = 2 * row + (sub >> 1)
        x = 2 * col + (sub & 1)
        t = ids[y, x]
        if t < 0:
            total += background[row, col]
        elif material[t] == last and wp.abs(depth[y, x] - last_near) < 0.004 * last_near:
            total += colour
        else:
            mat = material[t]
            last = mat
            last_near = depth[y, x]
            ia = triangles[t, 0]
            ib = triangles[t, 1]
            ic = triangles[t, 2]
            a = screen[ia]
            b = screen[ib]
            c = screen[ic]
            fx = 2.0 * float(col) + 0.5
            fy = 2.0 * float(row) + 0.5
            inv = 1.0 / ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
            u = wp.clamp(((b[0] - fx) * (c[1] - fy) - (b[1] - fy) * (c[0] - fx)) * inv, 0.0, 1.0) * a[2]
            v = wp.clamp(((c[0] - fx) * (a[1] - fy) - (c[1] - fy) * (a[0] - fx)) * inv, 0.0, 1.0) * b[2]
            w = wp.clamp(((a[0] - fx) * (b[1] - fy) - (a[1] - fy) * (b[0] - fx)) * inv, 0.0, 1.0) * c[2]
            s = 1.0 / (u + v + w)  # screen weights × nearness: perspective-correct
            u = u * s
            v = v * s
            w = w * s
            pos = points[ia] * u + points[ib] * v + points[ic] * w
            n = wp.normalize(normals[ia] * u + normals[ib] * v + normals[ic] * w)
            tp = place[ia] * u + place[ib] * v + place[ic] * w
            base = colours[ia] * u + colours[ib] * v + colours[ic] * w
            ax = aux[ia] * u + aux[ib] * v + aux[ic] * w
            open_ = ao[ia] * u + ao[ib] * v + ao[ic] * w
            view = wp.normalize(eye - pos)
            if wp.dot(n, view) < 0.0 and mat != SKIN:
                n = -n
            fine = noise(tile, unrolled(tp) * 38.0 + look.offset[1], tp[1] * 38.0 + look.offset[0])
            gloss = wp.float32(look.gloss)
            power = wp.float32(14.0)
            wrap = 0.18
            if mat == SKIN or mat == HAND:
                if mat == SKIN:
                    base = skin_colour(base, tp, ax, look, tile, fine)
                    lips = step(-0.01, 0.01, ax[0])
                    gloss = gloss + look.lip_gloss * lips
                    power = power + 20.0 * lips
                    gloss = gloss * (1.0 - wp.min(1.0, ax[2] + ax[3]))
                else:
                    base = base * (0.9 + 0.2 * fine)
            elif mat == EYE:
                base = eye_colour(wp.normalize(tp), look, tile)
                base = base * (1.0 - 0.45 * step(0.0, 0.75, tp[1]))
                gloss = 1.1
                power = 120.0
            elif mat == TEETH:
                gloss = 0.25
                power = 30.0
            elif mat == HAIR:
                strand = noise(tile, ax[0], ax[1]) * 0.65 + 0.35 * noise(tile, ax[0] * 3.1 + 9.0, ax[1] * 1.3)
                base = base * (0.25 + 1.5 * strand)
                gloss = ax[2] * strand
                power = 10.0
            elif mat == CLOTH or mat == HAT or mat == THING:
                base = base * (0.85 + 0.3 * noise(tile, ax[0], ax[1]))
                gloss = ax[2]
            elif mat == FRAME:
                gloss = 0.5
                power = 40.0
            elif mat == LENS:
                base = look.lens_tint
                gloss = 0.6
                power = 60.0
            # the key light's shadow, sampled at four places
            q = to_light * wp.vec4(pos[0] + 0.04 * n[0], pos[1] + 0.04 * n[1], pos[2] + 0.04 * n[2], 1.0)
            lit = wp.float32(0.0)
            for k in range(4):
                sx = int(q[0] + 1.1 * float(k & 1) - 0.05)
                sy = int(q[1] + 1.1 * float(k >> 1) - 0.05)
                if (
                    sx < 0
                    or sy < 0
                    or sx >= shadow.shape[1]
                    or sy >= shadow.shape[0]
                    or shadow[sy, sx] < q[2] + 0.03
                ):
                    lit += 0.25
            lit = 1.0 - look.shadow_strength * (1.0 - lit)
            nk = wp.dot(n, look.key_dir)
            kd = wp.max(0.0, (nk + wrap) / (1.0 + wrap))
            soft = wp.vec3(kd, kd, kd)
            if mat == SKIN or mat == HAND:  # light bleeding through skin: red reaches further round
                soft = wp.vec3(wp.max(0.0, (nk + 0.30) / 1.30), kd, wp.max(0.0, (nk + 0.12) / 1.12))
            fd = wp.max(0.0, (wp.dot(n, look.fill_dir) + 0.3) / 1.3)
            rd = wp.max(0.0, wp.dot(n, look.rim_dir))
            up = 0.5 + 0.5 * n[1]
            light = wp.cw_mul(look.key, soft) * lit + look.fill * fd + look.rim * rd
            light += mix(look.ground, look.sky, up) * open_
            light = light * (0.35 + 0.65 * open_)
            half = wp.normalize(look.key_dir + view)
            fres = 0.25 + 0.75 * wp.pow(1.0 - wp.max(0.0, wp.dot(n, view)), 3.0)
            spec = wp.pow(wp.max(0.0, wp.dot(n, half)), power) * gloss * lit * fres * 2.0
            half2 = wp.normalize(look.fill_dir + view)
            spec2 = wp.pow(wp.max(0.0, wp.dot(n, half2)), power) * gloss * fres
            colour = wp.cw_mul(base, light) + look.key * spec + look.fill * spec2
            if mat == EYE:
                colour = colour * (0.5 + 0.5 * open_)
            if mat == LENS:
                glare = noise(tile, tp[0] * 3.0 + look.offset[0], tp[1] * 1.5 + look.offset[1])
                colour += look.sky * look.lens_glare * step(0.45, 0.75, glare)
            total += colour
    image[row, col] = total * 0.25
